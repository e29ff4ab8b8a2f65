"""Reading and writing films: the only room that knows `av`."""
