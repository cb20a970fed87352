"""Reports that people show to others: one HTML file, Markdown, JUnit XML, and the shape of the JSON behind them.

Everything here takes `report/report.json` as data and imports no torch.
"""
