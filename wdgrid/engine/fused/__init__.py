"""K copies of any network, trained together by PyTorch."""
