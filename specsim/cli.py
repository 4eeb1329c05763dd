"""Command line: parse, call, print."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from specsim.commands.calibrate import app as calibrate_app
from specsim.commands.flags import FILE, NOT_OF, takes_overrides
from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.scenario import Overrides

app = typer.Typer(
    name="specsim",
    help="Says, before you deploy, whether speculative decoding pays for your model, GPU and traffic.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ScenarioFile = Annotated[
    str | None, typer.Argument(metavar=FILE, help="Scenario file (TOML). Without it: the shipped example.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def _version(wanted: bool) -> None:  # noqa: FBT001 - typer's callback
    if wanted:
        from specsim import __version__

        typer.echo(f"specsim {__version__}")
        raise typer.Exit


Version = Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")]


@app.callback()
def _specsim(
    _show_version: Version = False,  # noqa: FBT002 - typer reads the default
) -> None:
    pass


@app.command()
@takes_overrides(without=NOT_OF["plan"])
def plan(
    scenario: ScenarioFile = None,
    *,
    json: Json = False,
    flags: Overrides,
) -> None:
    """Say whether speculation pays, how far to draft, up to which load, and how many GPUs it takes."""
    from specsim.commands.plan import run

    run(scenario, flags, as_json=json)


@app.command()
@takes_overrides(without=NOT_OF["simulate"])
def simulate(
    scenario: ScenarioFile = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Where the results go (created).")] = None,
    *,
    json: Json = False,
    flags: Overrides,
) -> None:
    """Run one configuration through the serving simulator and write its requests and summary."""
    from specsim.commands.simulate import run

    run(scenario, flags, out=out, as_json=json)


@app.command()
def acceptance(
    files: Annotated[
        list[str], typer.Argument(metavar="FILE...", help="/metrics scrapes (one, or before and after) or a log.")
    ],
    out: Annotated[str | None, typer.Option(metavar=FILE, help="Write the model here (JSON).")] = None,
    model_name: Annotated[str | None, typer.Option(metavar="NAME", help="Where a scrape holds several models.")] = None,
    engine: Annotated[str | None, typer.Option(metavar="N", help="Keep one data-parallel engine.")] = None,
    json: Json = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Read what an engine reports of its drafts, and print the acceptance model that a scenario can point to."""
    from specsim.commands.acceptance import run

    run(files, out=out, model_name=model_name, engine=engine, as_json=json)


@app.command()
def models(json: Json = False) -> None:  # noqa: FBT002 - typer reads the default
    """List the models and the measured acceptance that ship."""
    from specsim.commands.lists import models

    models(as_json=json)


@app.command()
def hardware(json: Json = False) -> None:  # noqa: FBT002 - typer reads the default
    """List the GPUs and the measured profiles that ship."""
    from specsim.commands.lists import hardware

    hardware(as_json=json)


@app.command()
def verify(
    sampler: Annotated[str, typer.Argument(metavar="MODULE:FUNCTION", help="What to import and judge.")],
    algorithm: Annotated[
        str, typer.Option(metavar="RULE", help="Claimed rule (token, block, ..., MODULE:RULE), or lossless.")
    ] = "token",
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="Parameter of the rule. Repeats.")
    ] = None,
    level: Annotated[
        str, typer.Option(help="auto, interception, statistical, anytime, metamorphic, ragged or hostile.")
    ] = "auto",
    alpha: Annotated[float, typer.Option(metavar="P", help="False alarms of the whole check.")] = 1e-9,
    detect_tv: Annotated[float, typer.Option(metavar="TV", help="Total variation that must be detected.")] = 0.01,
    budget_s: Annotated[float, typer.Option(metavar="SECONDS", help="Time that the whole check may take.")] = 120.0,
    seed: Annotated[int, typer.Option(help="Seed of the cases' drafts and of the Generator handed over.")] = 0,
    arrays: Annotated[str, typer.Option(help="What arrays the sampler takes: numpy or torch.")] = "numpy",
    drafts: Annotated[
        int | None, typer.Option(metavar="K", help="Drafts a position, of a rule for several (2).")
    ] = None,
    takes: Annotated[str, typer.Option(help="What numbers it takes: probabilities or logits.")] = "probabilities",
    json: Json = False,  # noqa: FBT002 - typer reads the default
) -> int:
    """Say whether a sampler emits the law of its rule: exit 0 consistent, 1 rejected (a witness), 3 inconclusive."""
    from specsim.commands.verify import run

    return run(
        sampler,
        algorithm=algorithm,
        options=option or (),
        level=level,
        alpha=alpha,
        detect_tv=detect_tv,
        budget_s=budget_s,
        seed=seed,
        arrays=arrays,
        takes=takes,
        drafts=drafts,
        as_json=json,
    )


app.add_typer(calibrate_app)


listing = typer.Typer(help="List the published systems that run here, or explain one.", invoke_without_command=True)
app.add_typer(listing, name="systems")


@listing.callback()
def systems(context: typer.Context, json: Json = False) -> None:  # noqa: FBT002 - typer reads the default
    """List the published systems that run here, or explain one."""
    if context.invoked_subcommand is None:
        from specsim.commands.systems import systems

        systems(as_json=json)


@listing.command("show")
def show_system(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A system of the list.")],
    json: Json = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Explain one system: pipeline, rule, parameters with their sources, assumptions."""
    from specsim.commands.systems import show

    show(name, as_json=json)


@app.command()
@takes_overrides(without=NOT_OF["compare"])
def compare(
    scenario: ScenarioFile = None,
    systems: Annotated[
        list[str] | None, typer.Option(metavar="NAME,...", help="Systems of `specsim systems`, or all (default).")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(metavar="N,...", help="Users of the closed loops that the chart shows.")
    ] = None,
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Write tables and the picture here (created).")] = None,
    *,
    json: Json = False,
    flags: Overrides,
) -> None:
    """Run published systems on the same hardware, requests and acceptance: speed, latency, memory, work, network."""
    from specsim.commands.compare import run
    from specsim.scenario.overrides import whole_numbers

    users = None if concurrency is None else whole_numbers(concurrency, "concurrency")
    run(scenario, flags, systems=systems or (), concurrencies=users, out=out, as_json=json)


@app.command()
def reproduce(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Systems, or all.")],
    out: Annotated[str | None, typer.Option(metavar="DIR", help="Write a Markdown page each here (created).")] = None,
    json: Json = False,  # noqa: FBT002 - typer reads the default
) -> None:
    """Rerun a paper's numbers: published, ours, error, and where every input comes from."""
    from specsim.commands.systems import reproduce

    reproduce(names, out=out, as_json=json)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the ``specsim`` command and return its exit status: 0, 2 for a user's mistake, 70 for ours, 130 when
    interrupted, 141 where the reader of a pipe went away; ``verify`` has 1 and 3 of its own.

    A mistake is one line on stderr. Anything else that escapes is a bug and says so; SPECSIM_DEBUG=1 shows where.
    """
    try:
        status = app(args=None if arguments is None else list(arguments), prog_name="specsim", standalone_mode=False)
        sys.stdout.flush()
    except InputError as error:
        for line in error.lines:
            print(f"error: {line}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        status = 130
    except SystemExit:  # the parser's own answer to a reader that has gone
        return 141
    except BrokenPipeError:
        # The reader has gone, which is its right; a closed stdout must not fail again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except Exception as error:
        return _escaped(error)
    if status == 130:
        print("interrupted; nothing half-written was left", file=sys.stderr)
    return status if isinstance(status, int) else 0


def _escaped(error: Exception) -> int:
    if type(error).__name__ == "Abort":
        print("interrupted; nothing half-written was left", file=sys.stderr)
        return 130
    if hasattr(error, "format_message"):  # the parser's own exceptions, whichever package they come from
        message = str(error.format_message()).rstrip(".")
        if type(error).__name__ == "NoArgsIsHelpError" and message:
            print(message, file=sys.stderr)
            return 2
        if not message:
            return 2
        command = getattr(getattr(error, "ctx", None), "command_path", "specsim")
        print(f"error: {' '.join(message.split())}; see {command} --help", file=sys.stderr)
        return 2
    if os.environ.get("SPECSIM_DEBUG"):
        raise error
    print(
        f"internal error: {type(error).__name__}: {' '.join(str(error).split())}"
        " (a bug in specsim, not in your input; SPECSIM_DEBUG=1 shows where it is)",
        file=sys.stderr,
    )
    return 70


if __name__ == "__main__":
    sys.exit(main())
