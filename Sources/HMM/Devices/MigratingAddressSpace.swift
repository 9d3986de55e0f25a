/// What a driver of a device with memory of its own, or with atomics, sees of an address space.
public protocol MigratingAddressSpace: PageMigrating, ExclusiveGranting {}

extension AddressSpace: MigratingAddressSpace {}
