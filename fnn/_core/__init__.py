"""What every room shares: types, errors, checks, descriptions, trees, tables, files."""
