"""Two artifacts side by side: `optcc diff`. Imports no torch, and reads no tensor unless asked to."""
