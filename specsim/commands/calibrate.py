"""``specsim calibrate``: profiles measured here, profiles from measured tables, and profiles checked here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from calibration.measure.check import Checked
    from calibration.measure.command import Calibrated

app = typer.Typer(
    name="calibrate",
    help="Measure this machine into a profile, import measured tables as one, or check one against a real run.",
    invoke_without_command=True,
    no_args_is_help=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
imports = typer.Typer(
    name="import", help="Turn measured tables of other projects into a profile.", no_args_is_help=True
)
app.add_typer(imports)

PROFILE = "PROFILE"
Out = Annotated[str | None, typer.Option(metavar="FILE", help="Where the profile goes (.json).")]
Minutes = Annotated[float, typer.Option(metavar="MIN", help="Time to measure for. What is there already counts.")]
Device = Annotated[str, typer.Option(help="auto, cuda or cpu.")]
Model = Annotated[
    list[str] | None, typer.Option(metavar="MODEL", help="Whose shapes: shipped name or config.json. Repeats.")
]
Dtype = Annotated[str | None, typer.Option(metavar="NAME", help="bf16 or fp32 (default: bf16 on CUDA, fp32 on a CPU).")]
Clock = Annotated[str, typer.Option(help="On a CPU: wall, or processor where others use the machine too.")]


@app.callback()
def calibrate(
    context: typer.Context,
    out: Out = None,
    minutes: Minutes = 3.0,
    device: Device = "auto",
    model: Model = None,
    dtype: Dtype = None,
    tensor_parallel: Annotated[int, typer.Option(metavar="N", help="GPUs that a replica is cut over.")] = 1,
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of PyTorch, on a CPU.")] = None,
    clock: Clock = "wall",
    tiny: Annotated[bool, typer.Option("--tiny", help="A few small points, to see whether it runs.")] = False,  # noqa: FBT002
) -> None:
    """Measure this machine for some minutes and write a profile that --hardware takes, with its raw samples beside."""
    if context.invoked_subcommand is not None:
        return
    from pathlib import Path

    from specsim.errors import InputError

    if out is None:
        raise InputError("is missing; name a file for the profile, as --out my-gpu.json", field="--out")
    from calibration.measure.command import calibrate
    from calibration.measure.points import TINY

    _print(
        calibrate(
            Path(out),
            minutes=minutes,
            device=device,
            models=model or (),
            dtype=dtype,
            tensor_parallel=tensor_parallel,
            threads=threads,
            clock=clock,
            grid=TINY if tiny else None,
        )
    )


@app.command()
def check(
    profile: Annotated[str, typer.Argument(metavar=PROFILE, help="A profile that was measured on this machine.")],
    model: Annotated[str | None, typer.Option(metavar="MODEL", help="Target (default: the profile's first).")] = None,
    draft_model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Drafter (default: one layer of the target).")
    ] = None,
    batch: Annotated[str, typer.Option(metavar="N,N", help="Sequences.")] = "1,4",
    num_speculative_tokens: Annotated[
        str, typer.Option(metavar="K,K", help="Draft lengths; 0 is always run.")
    ] = "1,2,4",
    context: Annotated[int, typer.Option(metavar="TOKENS", help="Cached tokens a sequence at the start.")] = 512,
    rounds: Annotated[int, typer.Option(metavar="N", help="Of every run.")] = 8,
    device: Device = "auto",
) -> None:
    """Run a real draft/verify loop here, print predicted beside measured, and say which part explains the error."""
    from calibration.measure.check import check
    from calibration.measure.reading import read_measured
    from specsim.report.progress import progress
    from specsim.scenario.overrides import whole_numbers

    with progress("drafting and verifying") as report:
        checked = check(
            read_measured(profile),
            file=profile,
            target=model,
            draft=draft_model,
            batches=whole_numbers(batch, "batch"),
            ks=whole_numbers(num_speculative_tokens, "num_speculative_tokens"),
            context=context,
            rounds=rounds,
            device=device,
            report=report,
        )
    _print_check(checked)


@imports.command()
def aiconfigurator(
    system: Annotated[str, typer.Option(metavar="GPU", help="A system of the tables, as h100_sxm.")],
    engine: Annotated[str, typer.Option(metavar="NAME", help="vllm, sglang or trtllm.")] = "vllm",
    dtype: Annotated[str, typer.Option(metavar="NAME", help="bf16, fp8 or fp8_block.")] = "bf16",
    out: Out = None,
) -> None:
    """From the tables of the installed aiconfigurator-core package (extra [silicon])."""
    from calibration.imports import import_aiconfigurator

    _imported(import_aiconfigurator(system, engine=engine, dtype=dtype, out=out))


@imports.command()
def measurements(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Holds machine.json and the tables of kernels.")],
    out: Out = None,
) -> None:
    """From what calibration/run_gpu.sh measured on a GPU."""
    from calibration.imports import import_measurements

    _imported(import_measurements(directory, out=out))


@imports.command()
def vidur(
    file: Annotated[str, typer.Argument(metavar="FILE", help="Layer timings: gpu, model, tp, n and *_us columns.")],
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help="Which GPU of the file (a100, h100).")] = None,
    out: Out = None,
) -> None:
    """From per-layer operator timings of microsoft/vidur; attention, which they lack, is borrowed."""
    from calibration.imports import import_vidur

    _imported(import_vidur(file, gpu=gpu, out=out))


@imports.command()
def llmservingsim(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="Holds dense.csv, attention.csv, per_sequence.csv.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Profiled model (default: as meta.yaml says).")
    ] = None,
    out: Out = None,
) -> None:
    """From the kernel timings of casys-kaist/LLMServingSim's vLLM profiler."""
    from calibration.imports import import_llmservingsim

    _imported(import_llmservingsim(directory, model=model, out=out))


def _imported(written: tuple[str, dict[str, dict[str, dict[str, float]]], tuple[str, ...]]) -> None:
    path, errors, notes = written
    from specsim.report.layout import bullets, paragraph

    _print_errors(errors)
    bullets(notes)
    paragraph(f"\nwritten to {path}; use it with --hardware {path}")


def _print(done: Calibrated) -> None:
    from specsim.report.layout import bullets, heading, paragraph

    outcome, profile = done.outcome, done.profile
    heading(f"{profile.hardware.name}, {profile.dtype}: {outcome.measured} visits in {outcome.seconds:.0f} s")
    _print_errors(done.document["provenance"]["errors"])
    lines = [f"{outcome.resumed} visits were there already"] if outcome.resumed else []
    if outcome.left or outcome.refused:
        lines.append(
            f"{outcome.left} points were never measured, {outcome.refused} would take too long or too much memory; the "
            f"least known one has a standard deviation of {outcome.worst_sd:.0%}. Running it again goes on from here"
        )
    if outcome.disturbed:
        share, hint = outcome.unsteady / max(outcome.measured, 1), ". On a CPU that others use, --clock processor helps"
        lines.append(
            f"warning: {share:.0%} of the visits were unsteady (a throttled or shared device?); the profile is marked "
            "low-trust" + ("" if profile.provenance["clock"] == "processor" or done.device.kind == "cuda" else hint)
        )
    bullets(lines)
    paragraph(f"\nwritten to {done.path}, raw samples to {done.samples}; use it with --hardware {done.path}")


def _print_errors(errors: dict[str, dict[str, dict[str, float]]]) -> None:
    from specsim.report.layout import Column, print_table

    columns = [Column("part"), Column("answered by")] + [
        Column(x, right=True) for x in ("points", "median", "p95", "bias")
    ]
    rows = [
        [
            section if i == 0 else "",
            layer.lower(),
            f"{row['points']:.0f}",
            f"{row['median_pct']:.1f} %",
            f"{row['p95_pct']:.1f} %",
            f"{row['bias_pct']:+.1f} %",
        ]
        for section, layers in errors.items()
        for i, (layer, row) in enumerate(layers.items())
    ]
    print_table("Held-out error of each part", columns, rows)


def _print_check(checked: Checked) -> None:
    from calibration.live.price import PARTS
    from specsim.report.layout import Column, paragraph, print_table

    columns = [Column("batch", right=True), Column("K", right=True)]
    columns += [
        Column(x, right=True) for x in ("predicted", "measured", "error", "repeats differ", "speedup", "measured")
    ]
    rows = [
        [
            f"{case.batch}",
            f"{case.k}",
            f"{1e3 * sum(case.predicted_s.values()):.2f} ms",
            f"{1e3 * sum(case.measured_s.values()):.2f} ms",
            f"{case.error:+.1%}",
            f"{case.spread:.1%}",
            f"{checked.speedup(case, 'predicted_s'):.2f}",
            f"{checked.speedup(case, 'measured_s'):.2f}",
        ]
        for case in checked.cases
    ]
    print_table(f"A round of {checked.target} with {checked.draft}", columns, rows)
    columns = [Column("batch", right=True), Column("K", right=True), *(Column(part, right=True) for part in PARTS)]
    rows = [
        [f"{c.batch}", f"{c.k}"] + [f"{1e3 * c.predicted_s[p]:.2f} / {1e3 * c.measured_s[p]:.2f}" for p in PARTS]
        for c in checked.cases
    ]
    print_table("Its parts, predicted / measured, ms", columns, rows)
    paragraph(f"\n{checked.verdict}")
