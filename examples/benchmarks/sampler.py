"""How many few-shot tasks a second are drawn, beside the meta-steps that they are drawn for.

Two data sets: the letters that ship with the package (28x28, 5-way 1-shot, 32 tasks, with rotations), and noise in a
file of miniImageNet's size that is mapped into memory (84x84 in colour, 5-way 1-shot and 5-shot, 4 tasks). The loop
is what scripts commonly do: one image after another is turned into floats, and `torch.stack` makes tasks of them.
A step is a meta-gradient by backpropagation through 5 inner steps, of a conv net of four blocks of 32 channels.

    python examples/benchmarks/sampler.py
    python examples/benchmarks/sampler.py --quick    # a small file, a small net, a few repetitions
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from report import Row, machine, print_table, write_csv
from torch import Tensor
from torch.func import functional_call

import metafunc as mf

Task = tuple[Tensor, Tensor, Tensor, Tensor]


def mapped_noise(folder: Path, classes: int, drawings: int) -> mf.data.ImageDataset:
    """Noise of 84x84 pixels in colour, mapped from a file."""
    file, shape = folder / "images.bin", (classes * drawings, 3, 84, 84)
    with file.open("wb") as stream:
        for _ in range(classes):
            stream.write(torch.randint(256, (drawings, *shape[1:]), dtype=torch.uint8).numpy().tobytes())
    size = shape[0] * 3 * 84 * 84
    images = torch.from_file(str(file), shared=False, size=size, dtype=torch.uint8).reshape(shape)
    labels = torch.arange(classes).repeat_interleave(drawings)
    return mf.data.ImageDataset(images, labels, tuple(str(i) for i in range(classes)))


def plain_loop(episodes: mf.data.Episodes, count: int) -> list[Task]:
    """The tasks as a loop over tasks, classes and images makes them."""
    data, tasks = episodes.dataset, []
    sizes, starts, order = data.sizes.tolist(), data.starts.tolist(), data.order.tolist()
    for _ in range(count):
        parts: tuple[list[Tensor], ...] = ([], [])
        labels: tuple[list[int], ...] = ([], [])
        for label, c in enumerate(random.sample(range(len(sizes)), episodes.ways)):
            quarters = random.randrange(4) if episodes.rotations else 0
            for i, k in enumerate(random.sample(range(sizes[c]), episodes.shots + episodes.queries)):
                image = data.images[order[starts[c] + k]].float() / data.peak
                if quarters:
                    image = torch.rot90(image, quarters, (-2, -1))
                parts[i >= episodes.shots].append(image)
                labels[i >= episodes.shots].append(label)
        (sx, qx), (sy, qy) = map(torch.stack, parts), map(torch.tensor, labels)
        tasks.append((sx, sy, qx, qy))
    return tasks


def step_of(episodes: mf.data.Episodes, tasks: mf.data.Tasks, width: int) -> Callable[[], object]:
    """One meta-gradient on the tasks as a call."""
    channels, side = episodes.dataset.images.shape[1:3]
    net = mf.nets.conv4(episodes.ways, channels=channels, side=side, width=width)
    theta = {name: p.detach() for name, p in net.named_parameters()}

    def loss(params: dict[str, Tensor], batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(functional_call(net, params, (x,)), y)

    adapt = mf.Explicit()(mf.gradient_descent(loss, lr=0.01, steps=5))
    # Each the faster way on a CPU: the hardest comparison for the sampler.
    of_batch = mf.meta_grad(loss, adapt, tasks=mf.Vmap() if side < 84 else mf.Loop())
    return lambda: of_batch(theta, tasks["support"], tasks["query"]).grad


def seconds(run: Callable[[], object], repetitions: int) -> float:
    """The median time of a call, after one that does not count."""
    run()
    times: list[float] = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    return median(times)


def measure(name: str, episodes: mf.data.Episodes, tasks: int, width: int, repetitions: int) -> list[Row]:
    """One row a sampler."""
    import kornia.augmentation as K

    generator = torch.Generator().manual_seed(0)
    flips = K.AugmentationSequential(K.RandomHorizontalFlip(), K.RandomBrightness((0.6, 1.4)))
    augmented = replace(episodes, augment=flips)
    step = seconds(
        step_of(episodes, episodes.sample(tasks, generator), width), max(1, min(3, repetitions // 3))
    )
    samplers: dict[str, Callable[[], object]] = {
        "Episodes": lambda: episodes.sample(tasks, generator),
        "Episodes, kornia": lambda: augmented.sample(tasks, generator),
        "plain loop": lambda: plain_loop(episodes, tasks),
    }
    rows: list[Row] = []
    for sampler, run in samplers.items():
        took = seconds(run, repetitions)
        rows.append(
            {
                "tasks": name,
                "sampler": sampler,
                "tasks/s drawn": f"{tasks / took:.0f}",
                "tasks/s learnt from": f"{tasks / step:.1f}",
                "drawing / step": f"{took / step:.4f}",
            }
        )
    return rows


def main() -> None:
    """Read the command line, measure, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--quick", action="store_true", help="a small file and net, few repetitions")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks"))
    options = parser.parse_args()

    torch.set_num_threads(options.threads)
    random.seed(0)
    torch.manual_seed(0)
    width, repetitions, classes, drawings = (4, 2, 6, 20) if options.quick else (32, 20, 64, 600)
    letters, batch = mf.data.glyphs().split("train"), 4 if options.quick else 32
    print(machine())
    rows = measure(
        f"glyphs, 5-way 1-shot, {batch} tasks",
        mf.data.Episodes(letters, rotations=True),
        batch,
        width,
        repetitions,
    )
    with tempfile.TemporaryDirectory() as folder:
        noise = mapped_noise(Path(folder), classes, drawings)
        for shots in (1, 5):
            name = f"mapped 84x84x3, 5-way {shots}-shot, 4 tasks"
            rows += measure(name, mf.data.Episodes(noise, shots=shots), 4, width, repetitions)
    print_table("sampling, and one meta-step", rows)
    print()
    write_csv(options.out / "sampler.csv", rows)


if __name__ == "__main__":
    main()
