"""Numbers, measured and predicted. It never imports models: it is handed a Program."""
