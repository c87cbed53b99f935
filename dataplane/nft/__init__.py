"""nftables: objects that print themselves as nft text, transactions of them, and the door to the kernel."""
