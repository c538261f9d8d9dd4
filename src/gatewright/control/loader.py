"""A configuration file to a checked `GatewayConfig`, or to everything that is wrong with it, each with its
place.

It owns the order of the steps and the meeting of problems and places. It never raises for what a file holds,
and no message of it shows what a variable holds. The commands, the reload and the tests of users call `load`.

Loading has two halves where the process that reads the file runs no code of users': `load` without plugins there,
`check_data` on the resolved data elsewhere, and what that finds gets its places from `Loaded.errors_of`.
"""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from gatewright.control.conflicts import check_conflicts, valid_routes
from gatewright.control.document import Document, PlainData
from gatewright.control.environment import read_env
from gatewright.control.errors import At, ConfigError, KeyPath, Problem, path_text
from gatewright.control.messages import problems_of
from gatewright.control.models import GatewayConfig
from gatewright.control.plugin_check import PluginSource, check_plugins, plugin_references
from gatewright.control.references import check_references
from gatewright.control.yaml_tree import YamlError, place_of
from gatewright.core.files import open_file
from gatewright.plugins import registry

BODY = Path("request body")  # what errors name in a text that did not come from the file
MAX_FILE = 16 * 1024 * 1024
ENV_FILES = (".env", "docs/.env")  # beside the configuration; the first one that has a variable counts


@dataclass(frozen=True, slots=True)
class Loaded:
    """What came of loading: `config`, or None and `errors`, in the order of the file.

    `files` are those that the result depends on and a watch should look at, whether they exist or not: the
    configuration, `.env` files, and the certificate, key and plugin files that it names. `base_dir` is the folder that
    relative paths start from. `data` is what the file says, variables put in: dicts, lists, texts, booleans, None,
    floats and integers of up to 64 bits; None if it cannot be read.
    """

    config: GatewayConfig | None
    errors: list[ConfigError]
    files: tuple[Path, ...]
    base_dir: Path
    data: PlainData = None
    document: Document | None = None
    path: Path = Path()

    def errors_of(self, problems: Iterable[Problem]) -> list[ConfigError]:
        """Give `problems` that were found in `data` later, in another process say, their places in the file."""
        if self.document is None:
            return [ConfigError(self.path, 0, 0, path_text(each.path), each.message) for each in problems]
        return _placed(self.path, self.document, problems)


@dataclass(slots=True)
class _Run:
    """What one call of `load` gathers."""

    path: Path
    base_dir: Path
    files: list[Path] = field(default_factory=list)
    errors: list[ConfigError] = field(default_factory=list)

    def add(self, message: str, line: int = 0, column: int = 0, file: Path | None = None) -> None:
        self.errors.append(ConfigError(file or self.path, line, column, "", message))

    def finish(self, config: GatewayConfig | None, document: Document | None = None) -> Loaded:
        unique = {(error.file, error.line, error.column, error.message): error for error in reversed(self.errors)}
        errors = sorted(
            unique.values(),
            key=lambda error: (error.file != self.path, str(error.file), error.line, error.column),
        )
        return Loaded(
            None if errors else config,
            errors,
            tuple(dict.fromkeys(self.files)),
            self.base_dir,
            document.data if document is not None else None,
            document,
            self.path,
        )


def load(
    path: Path,
    environ: Mapping[str, str] | None = None,
    plugins: PluginSource | None = registry,
    text: str | None = None,
) -> Loaded:
    """Load the configuration at `path`.

    Variables come from `environ` (by default the process's), then from `.env` and `docs/.env` beside the
    file. Plugins are looked up in `plugins` and their settings checked; with None only the shape of the lists
    is. With `text` that is loaded in place of what the file holds, and what is wrong with it is said of `BODY`.
    """
    run = _Run(path if text is None else BODY, path.parent)
    run.files.append(path)
    if text is None:
        text = _read(run, path)
    if text is None:
        return run.finish(None)
    variables = _variables(run, os.environ if environ is None else environ)
    try:
        document = Document(text, variables)
    except YamlError as error:
        run.add(error.message, *error.place)
        return run.finish(None)
    for misplaced in document.misplaced:
        run.add(misplaced.message, *misplaced.place)
    return run.finish(_check(run, document, plugins), document)


def _read(run: _Run, path: Path, optional: bool = False) -> str | None:
    """Return the file's text, without a byte order mark; None, with the error noted, when there is none."""
    try:
        with open_file(path) as file:
            raw = file.read(MAX_FILE + 1)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        if not (optional and isinstance(error, FileNotFoundError | NotADirectoryError)):
            reason = error.strerror if isinstance(error, OSError) else str(error)
            run.add(f"cannot be read: {(reason or 'unknown error').lower()}", file=path)
        return None
    if len(raw) > MAX_FILE:
        run.add(f"is larger than {MAX_FILE // 1024**2} MiB", file=path)
        return None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = raw[: error.start].decode("utf-8-sig", "ignore")
        run.add("the file is not UTF-8 from here on", *place_of(before, len(before)), file=path)
        return None


def _variables(run: _Run, environ: Mapping[str, str]) -> dict[str, str]:
    variables: dict[str, str] = {}
    for name in reversed(ENV_FILES):
        path = run.base_dir / name
        run.files.append(path)
        text = _read(run, path, optional=True)
        if text is not None:
            values, problems = read_env(text)
            variables.update(values)
            for problem in problems:
                run.add(problem.message, problem.line, 1, path)
    variables.update(environ)
    return variables


def check_data(
    data: PlainData,
    base_dir: Path,
    plugins: PluginSource | None,
    skip: Callable[[KeyPath], bool] = lambda path: False,
) -> tuple[GatewayConfig | None, list[Problem]]:
    """Return the configuration that `data` holds, and all that is wrong with it; with problems it is not to be used.

    Plugins are looked up in `plugins`; with None they are not. Routes at whose key path `skip` is true are not compared
    with others.
    """
    config: GatewayConfig | None = None
    problems: list[Problem] = []
    try:
        config = GatewayConfig.model_validate(data, context={"base_dir": base_dir})
    except ValidationError as error:
        problems += problems_of(error, GatewayConfig)
    if not isinstance(data, dict):
        return None, problems
    problems += check_references(data)
    routes = enumerate(config.routes) if config is not None else valid_routes(data)
    problems += check_conflicts((index, route) for index, route in routes if not skip(("routes", index)))
    if plugins is not None:
        problems += check_plugins(data, base_dir, plugins)
    return config, problems


def _check(run: _Run, document: Document, plugins: PluginSource | None) -> GatewayConfig | None:
    """Return the configuration that `document` holds, or note all that is wrong with it."""
    run.errors += _placed(run.path, document, document.problems, given=True)
    config, problems = check_data(document.data, run.base_dir, plugins, skip=document.unreadable_below)
    run.errors += _placed(run.path, document, problems)
    if isinstance(document.data, dict):
        run.files.extend(_named_files(document.data, run.base_dir))
    return config


def _placed(path: Path, document: Document, problems: Iterable[Problem], given: bool = False) -> list[ConfigError]:
    """Turn problems into errors. Unless `given`, those of values whose variables are not set are left out."""
    errors: list[ConfigError] = []
    for problem in problems:
        known = document.known_part(problem.path)
        if not given and problem.at is At.VALUE and document.is_unreadable(known):
            continue
        line, column = document.place(problem.path, problem.at)
        shown = problem.path if problem.at is At.KEY else known
        message = document.without_values(problem.message, () if problem.wide else known)
        value = document.quote(known) if problem.quote else None
        if value is not None and (len(value) < 5 or value.strip('"') not in message):
            message += f" (got {value})"
        suggestion = problem.suggestion
        if suggestion is not None and problem.at is At.VALUE:
            suggestion = document.without_values(suggestion, known)
        errors.append(ConfigError(path, line, column, path_text(shown), message, suggestion))
    return errors


def _named_files(data: Mapping[str, Any], base_dir: Path) -> list[Path]:
    """Return the files that TLS sections and plugins name."""
    listeners, services = data.get("listeners"), data.get("services")
    owners: list[Any] = list(listeners) if isinstance(listeners, list) else []
    owners += services.values() if isinstance(services, dict) else []
    sections = [owner.get("tls") for owner in owners if isinstance(owner, dict)]
    sections += [data.get("consul")]
    names = [section.get(key) for section in sections if isinstance(section, dict) for key in ("cert", "key", "ca")]
    code = [owner.get("app") for owner in owners if isinstance(owner, dict)]
    code += [reference.use for _, reference in plugin_references(data)]
    names += [use.rpartition(":")[0] for use in code if isinstance(use, str) and ".py:" in use]
    return [base_dir / name for name in names if isinstance(name, str) and name and "\0" not in name]
