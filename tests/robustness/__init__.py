"""Seeded campaigns: files, kills and disks that fail, each ending in a count."""
