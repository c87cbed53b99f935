"""Addresses for containers, in the ways of host-local: which are there to lease, and who holds which.

ranges    pure: the addresses that a configuration offers, and the order in which they are handed out
leases    one file an address, in host-local's own format and under its lock

pools = (RangeSet((Range.of(ip_network("10.11.0.0/24")),)),)
store = LeaseStore("front", Path("/var/lib/cni/networks/front"))
store.lease(Owner("3f9c...", "eth0"), pools).leases     # (Lease(10.11.0.2/24, gateway 10.11.0.1),)
"""

from control.ipam.ranges import Lease

__all__ = ["Lease"]
