"""The door to a link's offloads: what its device is trusted to do about checksums and segments (``ethtool -k``).

    features("eth0")["tx-checksum-ip-generic"]     -> True

pyroute2 asks (``ETHTOOL_GFEATURES``), in the network namespace of the calling thread. It is imported with the first
question: nobody but an operator's command asks.

Be aware: names are the kernel's, not those that ethtool prints for groups of them (``tx-checksumming``); each kernel
has some that others lack.
"""

from __future__ import annotations

from dataplane.errors import LinkError


def features(name: str) -> dict[str, bool]:
    """Each feature of a link by its kernel name, and whether it is on. Raises ``LinkError``, also for no such link."""
    from pyroute2.ethtool.ioctl import EthtoolError, IoctlEthtool  # noqa: PLC0415 - see the module

    thing = f'the offloads of link "{name}"'
    asked = IoctlEthtool(name)
    try:
        return {str(feature): bool(on) for feature, on, *_ in asked.get_features() if feature}
    except OSError as error:
        raise LinkError.from_errno("read", thing, error.errno or 0) from error
    except EthtoolError as error:  # its own words for "no such device" and "not supported", which it does not tell
        raise LinkError("read", thing, type(error).__name__) from error
    finally:
        asked.close()
