"""Dead letters as operators handle them: found on their topic, shown, sent through their stage once more, dropped."""
