"""The providers' capacity, shared by processes: live workers tell what they use, replays take what that leaves."""
