//! A primary that sentinels watch over.
