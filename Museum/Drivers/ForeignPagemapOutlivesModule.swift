import HMM
import HMMExplorer

extension Exhibit {
    static let foreignPagemapOutlivesModule = Exhibit(
        "foreign-pagemap-outlives-module",
        source: "a26084328ac4 drm_pagemap: the provider's module may be gone at the last put",
        story: """
            Device A holds a reference to the pagemap of device B, for peer access. B is unbound and its module \
            unloaded; A then drops the last reference, and the release function that is called lies in the module that \
            is gone. Mended: a pagemap holds its provider's module until its release has returned.
            """,
        kind: .useAfterFree, isExhaustive: true
    ) { scene, version in
        // The module has one reference while it is loaded, and is freed with the last.
        let module = TrackedObject("the module of B", in: scene)
        let pagemap = TrackedObject("the pagemap of B", in: scene)
        if version == .mended { module.get() }
        let drop: @Sendable () -> Void = {
            guard pagemap.put() else { return }
            module.touch("the release of the pagemap")
            // By drm_pagemap itself, which lives elsewhere: nothing of the module runs any more.
            if version == .mended { _ = module.put() }
        }
        pagemap.get()
        scene.thread("A") {
            pagemap.touch("peer access")
            drop()
        }
        scene.thread("unload B") {
            drop()
            _ = module.put()
        }
        scene.join()
        scene.check(!pagemap.tryGet() && !module.tryGet(), "something of B is left")
    }
}
