"""Runs steps: in order, and on failure undoes what was done, in reverse.

apply(steps, kernel)          all of it, or (as far as the kernel lets us) nothing
apply_all(steps, kernel)      every one, whatever fails; for tearing down, where stopping early leaves more behind
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable

from dataplane.abi import U32
from dataplane.crashpoints import Point, reached
from dataplane.doors import Kernel
from dataplane.errors import BpfError, DataplaneError, LinkError
from dataplane.steps import (
    AttachLocalhost,
    AttachProgram,
    DeleteRules,
    DetachLocalhost,
    DetachProgram,
    DistrustSource,
    DropEntry,
    FlushFlows,
    ForgetCounts,
    InsertRules,
    LoadPrograms,
    PutEntry,
    RunNft,
    SetPortFlags,
    SetSysctl,
    Step,
    TrustSource,
)
from dataplane.types import IfIndex, Program

Undo = Callable[[], object]

_AFTER = {kind: Point(f"step.{kind.__name__}") for kind in Step.__args__}


def apply(steps: Iterable[Step], kernel: Kernel) -> Callable[[DataplaneError], None]:
    """Run steps until one fails; then undo those before it and raise its error, with what could not be undone.

    Returned is what undoes all of them, for the sake of a later error, which is told the same.
    """
    undos: list[Undo] = []

    def undo_all(cause: DataplaneError) -> None:
        for undo in reversed(undos):
            try:
                undo()
                reached(Point.STEP_UNDONE)
            except DataplaneError as left:
                cause.add_note(f"while undoing: {left}")

    try:
        for step in steps:
            undos.append(_run(step, kernel))
            reached(_AFTER[type(step)])
    except DataplaneError as error:
        undo_all(error)
        raise
    return undo_all


def apply_all(steps: Iterable[Step], kernel: Kernel) -> list[DataplaneError]:
    """Run every step; the errors of those that failed, in order."""
    errors: list[DataplaneError] = []
    for step in steps:
        try:
            _run_for_good(step, kernel)
            reached(_AFTER[type(step)])
        except DataplaneError as error:
            errors.append(error)
    return errors


def _run_for_good(step: Step, kernel: Kernel) -> None:
    """As ``_run``; but nobody undoes it, so what was there before is not asked for."""
    match step:
        case DropEntry(map_name, key):
            _drop(kernel, map_name, key)
        case SetPortFlags(ifindex, flags, optional):
            try:
                kernel.links.set_port_flags(ifindex, flags)
            except LinkError as error:
                if not optional or error.errno != errno.ENODEV:
                    raise
        case _:
            _run(step, kernel)


def _run(step: Step, kernel: Kernel) -> Undo:  # noqa: C901, PLR0912 - one arm a step
    match step:
        case LoadPrograms():
            kernel.programs.open()
            return _nothing
        case PutEntry(map_name, key, value):
            return _put_entry(kernel, map_name, key, value)
        case DropEntry(map_name, key):
            return _drop_entry(kernel, map_name, key)
        case ForgetCounts(ifindex):
            _drop(kernel, "checksum_counts", U32.pack(ifindex))
            return _nothing
        case AttachProgram(program, ifindex):
            return _attach_program(kernel, program, ifindex)
        case DetachProgram(program, ifindex):
            was_hooked = kernel.programs.detach(program, ifindex)
            return (lambda: kernel.programs.attach(program, ifindex)) if was_hooked else _nothing
        case AttachLocalhost(leading):
            return _attach_localhost(kernel, leading)
        case DetachLocalhost():
            taken = kernel.programs.detach_localhost(kernel.programs.localhost())
            return (lambda: kernel.programs.attach_localhost(taken)) if taken else _nothing
        case RunNft(do, undo):
            kernel.nft.run(do)
            return lambda: kernel.nft.run(undo)
        case InsertRules(chain, _, _, optional=True) if not kernel.nft.has_chain(chain):
            return _nothing
        case InsertRules(chain, rules, owner):
            kernel.nft.delete_rules(chain, owner)
            kernel.nft.insert_rules(chain, rules, owner)
            return lambda: kernel.nft.delete_rules(chain, owner)
        case DeleteRules(chain, rules, owner):
            before = bool(kernel.nft.rule_handles(chain, owner))
            kernel.nft.delete_rules(chain, owner)
            return (lambda: kernel.nft.insert_rules(chain, rules, owner)) if before else _nothing
        case SetSysctl():
            return _set_sysctl(kernel, step)
        case SetPortFlags():
            return _set_port_flags(kernel, step)
        case TrustSource(zone, address):
            added = kernel.firewalld.running() and kernel.firewalld.add_source(zone, address)
            return (lambda: kernel.firewalld.remove_source(zone, address)) if added else _nothing
        case DistrustSource(zone, address):
            removed = kernel.firewalld.running() and kernel.firewalld.remove_source(zone, address)
            return (lambda: kernel.firewalld.add_source(zone, address)) if removed else _nothing
        case FlushFlows(filters, sources):
            kernel.flows.flush(filters)
            kernel.flows.flush_untranslated(sources)
            return _nothing


def _attach_program(kernel: Kernel, program: Program, ifindex: IfIndex) -> Undo:
    try:
        new = kernel.programs.attach(program, ifindex)
    except BpfError:
        if not program.of_port or kernel.links.get(ifindex) is not None:
            raise
        return _nothing
    return (lambda: kernel.programs.detach(program, ifindex)) if new else _nothing


def _put_entry(kernel: Kernel, map_name: str, key: bytes, value: bytes | None) -> Undo:
    if value is not None and kernel.programs.create(map_name, key, value):
        return lambda: kernel.programs.drop(map_name, key)  # as nearly always: there was none
    former = kernel.programs.get(map_name, key)

    def write(content: bytes | None) -> None:
        if content is None:
            kernel.programs.drop(map_name, key)
        else:
            kernel.programs.put(map_name, key, content)

    if former == value:
        return _nothing
    write(value)
    return lambda: write(former)


def _attach_localhost(kernel: Kernel, programs: frozenset[Program]) -> Undo:
    if programs <= kernel.programs.current_localhost(programs):
        return _nothing  # for all containers but a host's first
    new = programs - kernel.programs.localhost()
    kernel.programs.attach_localhost(programs)
    return lambda: kernel.programs.detach_localhost(new)


def _drop(kernel: Kernel, map_name: str, key: bytes) -> None:
    try:
        kernel.programs.drop(map_name, key)
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise


def _drop_entry(kernel: Kernel, map_name: str, key: bytes) -> Undo:
    try:
        return _put_entry(kernel, map_name, key, None)
    except BpfError as error:
        if error.errno != errno.ENOENT:
            raise
        return _nothing


def _set_sysctl(kernel: Kernel, step: SetSysctl) -> Undo:
    former = kernel.sysctls.read(step.name)
    if former is None and step.optional:
        return _nothing
    kernel.sysctls.write(step.name, step.value)
    return _nothing if former is None else lambda: kernel.sysctls.write(step.name, former)


def _set_port_flags(kernel: Kernel, step: SetPortFlags) -> Undo:
    try:
        former = kernel.links.port_flags(step.ifindex)
    except LinkError as error:
        if step.optional and error.errno == errno.ENODEV:
            return _nothing
        raise
    kernel.links.set_port_flags(step.ifindex, step.flags)
    return lambda: kernel.links.set_port_flags(step.ifindex, former.where(step.flags))


def _nothing() -> None:
    """Undo of a step that changed nothing that must go back."""
