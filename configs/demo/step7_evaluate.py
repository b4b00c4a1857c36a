"""Step 7 of the demo: the head of which only the field was ever seen.

python network_model/evaluate.py configs/demo/step7_evaluate.py
"""

config = {
    "run": "demo",  # truth and labels are head_2's of step 0, as by default
}
