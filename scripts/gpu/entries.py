"""What is checked and measured, in order of worth. No torch is imported here: the process that watches needs none."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One check or measurement.

    Attributes:
        name: What the command line calls it.
        what: In a line, for the report.
        run: `module:function` in this folder; called with a `Stand` and a `Found`.
        expected: Seconds that it takes on an H100; with less time left it is left out.
        limit: Seconds after which its process is ended.
    """

    name: str
    what: str
    run: str
    expected: float
    limit: float


ENTRIES = {
    entry.name: entry
    for entry in (
        Entry("schedulers", "images equal the CPU's, every scheduler", "images:schedulers", 12, 90),
        Entry("precisions", "float32, bfloat16, float16 against the CPU", "images:precisions", 5, 60),
        Entry("training", "learns in bfloat16 without a GradScaler", "learning:training", 8, 60),
        Entry("resume", "a resumed run ends as one that went through", "learning:resume", 8, 60),
        Entry("memory-options", "--cpu-offload, --vae-slicing, --vae-tiling", "images:memory_options", 5, 60),
        Entry("out-of-memory", "batches are halved until they fit", "images:out_of_memory", 5, 60),
        Entry(
            "features",
            "negatives, walks, controls, objectives, searches, the server",
            "features:features",
            25,
            120,
        ),
        Entry("generate-sd15", "SD 1.5's shape at 512 px against diffusers", "generation:sd15", 20, 90),
        Entry("train-sd15", "SD 1.5's shape against a loop of the stock kind", "training:sd15", 15, 90),
        Entry("thing-sd15", "a thing at SD 1.5's shape, from start to stop", "training:thing_sd15", 10, 60),
        Entry("generate-sdxl", "SDXL's shape at 1024 px against diffusers", "generation:sdxl", 30, 100),
        Entry("train-sdxl", "SDXL's shape against a loop of the stock kind", "training:sdxl", 20, 120),
        Entry("thing-sdxl", "a thing at SDXL's shape, from start to stop", "training:thing_sdxl", 30, 120),
        Entry("host-waits", "where the loops wait for the device", "waits:host_waits", 8, 60),
        Entry("compare", "8 x 4 x 4 images against a plain loop", "comparison:compare", 15, 90),
        Entry("reward", "the reward objective learns", "learning:reward", 6, 60),
        Entry("heat-maps", "heat maps equal the CPU's", "images:heat_maps_equal", 4, 60),
        Entry("compile-sd15", "--compile at SD 1.5's shape", "generation:compiled_sd15", 45, 150),
        Entry("compile-sdxl", "--compile at SDXL's shape", "generation:compiled_sdxl", 65, 240),
    )
}
