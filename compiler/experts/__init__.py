"""Which expert lies where: placement over devices, and what of an expert that does not fit is kept in memory."""
