"""The report as one HTML file: text, tables and SVG, and a script that moves the ellipses."""
