/// Who takes pages out of use as a range fault walks over them: a migration.
///
/// So that a device fault which wants migration walks the tables once: after the walk has done its own work on a step
/// of the tables, the collector gets the same step.
///
/// Source: "mm: setup device page migration in HMM pagewalk", 2026.
protocol PageCollector: AnyObject {
    /// Nothing was taken yet, so the walk may still wait for others and fault. Who holds folio locks may do neither:
    /// whom it waits for may wait for it.
    ///
    /// Invariant: INV-MG-9.
    var mayWait: Bool { get }

    /// Takes what it wants of the step. Answers the page from which to look again, because tables have changed, or nil
    /// when the step is done. What lies before the answer is done too. No table is locked.
    func collect(_ step: PageTableCursor.Step, in vma: VMA) -> PageNumber?
}
