"""Pure: embeddings, prompts and thresholds in, an action and its reasons out.

policy    a file or a text -> Policy, or an error with every problem
  tables    what a policy is            checks    what makes one wrong
  problems  wrong kinds, with lines     locate    where a value stands in the text
writer    Policy -> the text of its file
judge     Policy and a model's text tower -> Judge, which judges one picture or a million
  scores    embeddings -> scores        forms     scores -> the scale of severities
  weighing  scores -> rules             explain   why, and what would change it
"""
