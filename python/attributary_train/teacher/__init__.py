"""Teachers: how much did each training item influence a generated image?"""
