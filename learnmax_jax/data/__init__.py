"""Recorded facts that ship with the package: routes through Montezuma's Revenge; published learning curves."""
