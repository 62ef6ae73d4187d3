"""Attribution by Customization: pictures whose sources are known by construction, and what is learned from them."""
