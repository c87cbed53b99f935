"""The verbs other than VERSION: whether the configuration's version has them, and who carries them out.

bridge, dataplane-bridge    plugin.mainplugin
host-local                  plugin.ipam.hostlocal
all others                  plugin.chained
"""

from __future__ import annotations

from plugin import config
from plugin.call import Call, Outcome
from plugin.environment import SINCE
from plugin.errors import CniError, Code

_MAIN = frozenset({"bridge", "dataplane-bridge"})


def run(call: Call) -> Outcome:
    """Carry out a verb other than VERSION. Raises ``CniError``, ``DataplaneError`` or an ``ExceptionGroup``."""
    verb, header = call.invocation.verb, config.parse_header(call.conf)
    since = SINCE.get(verb)
    if since and not header.at_least(since):
        raise CniError(
            Code.INCOMPATIBLE_VERSION,
            f"config version does not allow {verb}",
            f"cniVersion: {verb} needs {since}, and the configuration is of {header.cni_version}",
        )
    if call.plugin in _MAIN:
        from plugin.mainplugin import run as run_main  # noqa: PLC0415 - chained calls need nothing of it

        return run_main(call)
    if call.plugin == "host-local":
        from plugin.ipam.hostlocal import run as run_host_local  # noqa: PLC0415 - as above

        return run_host_local(call.invocation, call.conf)
    from plugin.chained import run as run_chained  # noqa: PLC0415 - as above

    return run_chained(call)
