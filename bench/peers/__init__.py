"""Whoever is compared with: plugins as they are, and the rules of others as text.

plugins.py        the Go plugins of given directories, nft as a process, libnftables in one
rulesets.py       what they have in the kernel for many published ports
translations.py   the same for one
"""
