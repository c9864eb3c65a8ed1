"""What tests share: real servers, repositories and clusters, and the records that they leave."""
