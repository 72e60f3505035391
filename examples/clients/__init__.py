"""Other people's trainers with RegNewton, each against its own default at equal time."""
