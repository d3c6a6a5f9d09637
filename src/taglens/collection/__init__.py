"""What happens to the predictions of many pictures: pages, stores, exports."""
