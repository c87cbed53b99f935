"""What should be in the kernel, decided from the attachments without touching anything."""
