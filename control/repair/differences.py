"""What differs between the kernel and what one request asks for, a sentence each: CHECK's answer."""

from __future__ import annotations

from collections.abc import Iterator

from control.desired import adminchain, zones
from control.desired.planner import Desired
from control.repair.observation import complaints, observe
from control.repair.skeleton import Chains
from dataplane.doors import Kernel


def differences(kernel: Kernel, wanted: Desired, chains: Chains) -> Iterator[str]:
    """Compare; ``chains`` is what became of those of our table.

    Elements are asked for one by one: that does not depend on how many others there are.
    """
    if chains is not Chains.INTACT:
        yield chains
    if chains is not Chains.MISSING:
        for element in sorted(wanted.elements, key=str):
            if not kernel.nft.contains(element):
                yield f"element {element.set_name} {{ {element.body(comment=False)} }} is missing"
    yield from (sentence for _, sentence in complaints(wanted, observe(kernel, wanted)))
    yield from adminchain.differences(kernel.nft, wanted.admin_chains)
    yield from zones.differences(kernel.firewalld, wanted.sources)
