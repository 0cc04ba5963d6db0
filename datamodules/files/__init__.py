"""Files of users: images found and checked, text, tables and MATLAB files read."""
