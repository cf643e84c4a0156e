"""Instruction strings of the four upstream sources, word for word as they stand on disk.

Source: MMEB-train, VLM2Vec-V2 (LLaVA-Hound, ViDoRe) and `visrag_download.py` of UME-R1.
"""

from __future__ import annotations

IMAGE_TOKEN = "<|image_1|>"
VIDEO_TOKEN = "<video>"

I2T = "Find an image caption describing the given everyday image"
T2I = "Find me an everyday image that matches the given caption: "
CLASSIFY = "Represent the given image for classification"
QUESTION = "Represent the given image with the following question: "
CHANGE = "Given an image, find a similar everyday image with the described changes: "
IMAGE_TARGET = "Represent the given image."

VIDEO_QUERY = "Find a video that contains the following visual content: "
VIDEO_TARGET = "Understand the content of the provided video."
VIDEO_QUESTION = "Answer a question based on the content of a video. "
VIDEO_PROMPTS = (
    "Write an in-depth depiction of the video, covering all its aspects.",
    "Elaborate on the visual and narrative elements of the video in detail.",
    "Describe what happens in the video from the beginning to the end.",
    "Please provide a detailed description of the video.",
    "Provide a detailed description of the video, focusing on the main subjects, their actions, and the background "
    "scenes.",
)

# Instructions of the subsets that the world does not write, but that a person may point the teacher at.
OTHER_IMAGE = (
    "Identify the object shown in the image",
    "Identify the scene shown in the image",
    "Find a day-to-day image that looks similar to the provided image.",
    "Find a caption for the news in the given photo.",
    "Represent the given image",
    "Represent the given cropped image of the object",
)
OTHER_TEXT = ("Retrieve an image of this news caption. ", "Find a Wikipedia image that answers this question: ")

VISRAG_QUERY = {
    "ChartQA": "This query is related to retrieving a relevant chart that visually represents numerical or categorical "
    "data. The retrieved chart should contain bar graphs, line charts, or other visual elements necessary to analyze "
    "trends, compare values, or extract insights related to the query: ",
    "MP-DocVQA": "This query is related to retrieving a relevant page from a multi-page document, such as reports, "
    "invoices, or research papers. The retrieved document should contain text, tables, or structured information "
    "necessary to answer the query: ",
    "InfoVQA": "This query is related to retrieving an infographic that visually presents statistical or factual "
    "information using charts, icons, and structured layouts. The retrieved image should contain the necessary visual "
    "elements to provide the best context for answering the query: ",
    "PlotQA": "This query relates to retrieving a relevant plot or chart that visually represents numerical data. The "
    "retrieved figure should contain the necessary information to analyze trends, compare values, or extract key "
    "insights related to the query: ",
    "SlideVQA": "This query is related to retrieving a relevant presentation slide that visually presents structured "
    "information. The retrieved slide should contain the necessary text, charts, or graphics to provide the best "
    "answer to the query: ",
    "ArxivQA": "This query is related to retrieving a relevant figure from an ArXiv research paper. The retrieved "
    "figure should contain scientific plots, mathematical visualizations, or experimental results that best address "
    "the query: ",
}
VISRAG_TARGET = {
    "ChartQA": "A statistical chart comparing values or analyzing trends.",
    "MP-DocVQA": "A page from a multi-page document with text or tables.",
    "InfoVQA": "An infographic with structured data, charts, and annotations.",
    "PlotQA": "A numerical data visualization, such as bar charts or line graphs.",
    "SlideVQA": "A presentation slide with text, bullet points, and diagrams.",
    "ArxivQA": "A figure from a research paper, including plots or experimental results.",
}
