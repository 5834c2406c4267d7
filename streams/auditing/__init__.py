"""What can be proved afterwards: why an answer says what it says, that all adds up, and that nothing was altered."""
