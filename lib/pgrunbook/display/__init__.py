"""What people see: cards, tables, banners and pictures."""
