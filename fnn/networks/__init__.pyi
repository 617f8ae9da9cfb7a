from fnn.networks.resnet import resnet as resnet
from fnn.networks.vit import class_token as class_token, first_token as first_token, vit as vit
