extension AddressSpace {
    func collapse(_ pages: PageRange) throws(HMMError) { throw HMMError(.notSupportedYet) }
}
