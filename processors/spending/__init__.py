"""What is spent beside a request's own calls: each asker's part of a priced call, booked before it is sent."""
