"""A real Linux guest under QEMU for end-to-end tests: `machine.Guest` is the way in."""
