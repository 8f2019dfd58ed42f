"""What GitHub shows of a verification: marks on lines of the target's code, and a page beside the job."""
