"""What a policy does to an admin's own pictures: measured, bounded, calibrated, and reported.

bounds       how high a rate may really be, given what a sample showed
sources      a folder, a tar or a list -> files with their digests
survey       files -> what the policy says of each; tally keeps it in a few bytes a picture
groups       whether one kind of picture fares worse than the others
calibration  survey and wanted rate -> the most severe setting that keeps the rate
outcome      all of it as one value, and as JSON
plots        the outcome's curves as SVG
report       the outcome as one HTML file that asks nothing of any network: panels of numbers,
             in markup that escapes what is not ours
summary      the outcome on a terminal
trial        all of it, in order
"""
