"""Whoever is compared with: plugins as they are, and the rules of others as text.

plugins.py     the Go plugins of given directories
nft.py         nft as a process, libnftables in one
rulesets.py    what they have in the kernel for one published port, or many
firewall.py    what the firewall plugin has there, for one network or many
"""
