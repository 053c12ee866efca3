"""Text encoders: strings in, features per word and per sentence out."""
