def build_multiplex_video_predictor(checkpoint_path=None, bpe_path=None, warm_up=True, async_loading_frames=True):
    """Build a video predictor; it needs a GPU, and the network where no weights are given."""
    import torch
    from sam3 import model_builder as parts
    from sam3.model.multiplex import MultiplexDetector, VideoModel, VideoPredictor

    if warm_up or async_loading_frames:
        raise RuntimeError("this needs a GPU")
    if checkpoint_path is None:
        checkpoint_path = parts.download_ckpt_from_hf()
    old = torch.cuda.get_device_properties(0).major < 8
    vision = parts._create_vision_backbone(enable_inst_interactivity=True)
    detector = MultiplexDetector(
        backbone=parts._create_vl_backbone(vision, parts._create_text_encoder(bpe_path)),
        transformer=parts._create_sam3_transformer(),
        input_geometry_encoder=parts._create_geometry_encoder(),
        segmentation_head=parts._create_segmentation_head(),
        num_feature_levels=1,
        o2m_mask_predict=True,
        dot_prod_scoring=parts._create_dot_product_scoring(),
        use_instance_query=False,
        multimask_output=True,
    )
    if checkpoint_path is not None and not old:
        parts._load_checkpoint(detector, checkpoint_path)
    return VideoPredictor(VideoModel(detector))
