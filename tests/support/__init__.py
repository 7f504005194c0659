"""What tests share: builders, the real parts they drive, and how they wait."""
