"""TODO pgrunbook.changes.safe_forms"""
