"""Tables, sentences and exports that a result makes."""
