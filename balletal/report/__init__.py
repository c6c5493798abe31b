"""A training run or a comparison as one HTML file: tables, figures, and a timeline for each video."""
