-- The schema registry keeps its schemas in a database of its own, beside Headrace's.
CREATE DATABASE registry;
