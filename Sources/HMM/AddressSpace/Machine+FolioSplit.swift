extension Machine {
    func splitFolio(_ head: FrameNumber) -> Bool { false }
    func reclaimLarge(_ head: FrameNumber) {}
}
