DROP TABLE batch_collectors;
DROP TABLE batch_items;
DROP TABLE batches;
