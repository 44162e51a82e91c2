"""The paper's study in miniature: train and evaluate variants on emoji-llava, then write tables, verdicts and figures.

python -m experiments.paper ablate
python -m experiments.paper reproduction
python -m experiments.paper prompts Qwen/Qwen2-VL-2B-Instruct --data FOLDER
"""
